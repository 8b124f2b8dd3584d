"""Engine: the scheduler, policy flows and drivers of a run. Policy flows decide, drivers wait."""
