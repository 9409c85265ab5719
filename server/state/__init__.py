"""The rules of each family over SQLite tables. Pure: handed a cursor, an index and a time."""
