"""The study: search space, controller, executors, rerun."""
