"""The station's ledger as the host reads it: batches, flash images, exports."""
