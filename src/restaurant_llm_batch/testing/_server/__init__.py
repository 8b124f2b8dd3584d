"""What `restaurant_llm_batch.testing.server` is made of; only `app` knows of HTTP."""
