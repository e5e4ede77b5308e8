"""The index of the control plane: tables, queries, migrations. What recovery needs is in the vault, not here."""
