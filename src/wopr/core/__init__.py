"""What every slice stands on: settings, database, errors, money, time, loops. Imports nothing above itself."""
