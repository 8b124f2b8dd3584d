"""What the page shows of a record: figures, tables, the timeline and single items, by SQL, as JSON can hold them."""
