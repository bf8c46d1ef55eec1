"""Values of Arrow that Python has no objects for: times too far away, or in a zone that nobody knows."""

NO_OBJECT = (ValueError, OverflowError, KeyError)  # the last is pytz's, where that is installed
