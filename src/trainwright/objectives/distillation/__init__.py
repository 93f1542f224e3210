"""How far a student's predictions are from a teacher's."""
