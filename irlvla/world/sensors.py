"""stub"""
class SensorSuite:
    def __init__(self,city,scenery,preset): pass
    def write(self,frames,blobs,rng): pass
