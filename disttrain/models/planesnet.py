from disttrain.models.mnist import MnistCnn


class PlanesNetCnn(MnistCnn):
    pass
