reset
