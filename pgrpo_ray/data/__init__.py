"""Problems, responses and the Arrow schemas that everything else meets through. No Ray, no torch."""
