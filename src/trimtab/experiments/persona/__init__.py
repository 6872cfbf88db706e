"""Character traits as directions: extract, judge, steer, monitor."""
