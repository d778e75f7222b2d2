"""Who somebody is and what they may do: users, tenants, sessions, keys, mail."""
