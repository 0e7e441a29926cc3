"""The paper's Tables 1, 2, B.1, B.2 and section 4.1, measured again and put beside the printed values."""
