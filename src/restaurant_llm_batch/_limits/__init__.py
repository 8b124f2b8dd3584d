"""How concurrency and rates are limited: pure state machines with one lock around them."""
