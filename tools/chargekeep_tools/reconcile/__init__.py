"""From what stations send to bills, exactly once.

A signed ledger batch is verified, stored as it came in one durable commit, and only then
acknowledged; records, transactions and bills are a projection of what is stored, and can be
rebuilt from it at any time, byte for byte.
"""
