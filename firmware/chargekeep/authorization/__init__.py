# Who may charge, decided with no network: what a station believes (trust, objects), what a driver
# presents (entitlement, allowlist), and the decision (policy, spent).
