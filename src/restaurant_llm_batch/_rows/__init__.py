"""Rows of tables: data frames, cells as they are meant, columns under other names, rows as items and as reviews."""
