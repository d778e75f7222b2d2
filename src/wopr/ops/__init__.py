"""Operations: the journal, the logbook rendered from it, and the checks."""
