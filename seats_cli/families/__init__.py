"""Model families as plain facts: shapes, positions, published settings; no torch in here."""
