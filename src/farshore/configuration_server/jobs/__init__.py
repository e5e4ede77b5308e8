"""Long operations: DBOS workflows that are started, listed, watched and cancelled."""
