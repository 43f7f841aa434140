def check_output(x): pass
