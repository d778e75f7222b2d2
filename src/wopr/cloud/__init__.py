"""Machines and DNS records at outside companies, behind small protocols."""
