"""The index of the control plane: tables, queries, migrations. What recovery needs lies in the vault, not here."""
