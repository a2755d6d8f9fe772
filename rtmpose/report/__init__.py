"""Results for people and programs: tables, summary.json, pictures, the sweep and its page."""
