"""The parts of HTML pages: escaped markup, tables and lists, figures, and the style sheet."""
