"""The Rule Adapter: predicts critical rules from texts, so that only those are rated."""
