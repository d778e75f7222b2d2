"""Money: the ledger, prices, usage, and the payment company."""
