"""The live page of a run on the scheduler's dashboard, fed by the receipts in its store."""
