"""Tables out: the outcomes of a run as rows, data frames, files and HTML."""
