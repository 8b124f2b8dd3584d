"""The page on which a run is seen: its scripts and styles, which are shipped, and the document made of them."""
