"""Self-contained HTML pages: charts and tables as data, the templates that draw them, the style."""
