import torch

import disttrain


class Rings(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        self.points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        return self.points[index], int(self.points[index].norm() > 1.2)


class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))


torch.manual_seed(0)
disttrain.fit(Net(), Rings(2000, seed=1), test_dataset=Rings(500, seed=2), optim={"lr": 0.03}, train={"epochs": 5})
