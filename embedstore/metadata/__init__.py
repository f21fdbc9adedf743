"""All SQL: schema, database, catalog, filters as SQL, migrations."""
