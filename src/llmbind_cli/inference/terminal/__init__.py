"""Pictures shown in a terminal, in whichever way it knows."""
