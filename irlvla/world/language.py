"""stub"""
def describe_drive(root,data_split,name,frames,city): pass
