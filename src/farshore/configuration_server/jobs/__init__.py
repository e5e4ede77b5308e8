"""Long operations: DBOS workflows, started, listed, watched and cancelled."""
