"""From energy to grams: applied last, when asked, with the source of every factor."""
