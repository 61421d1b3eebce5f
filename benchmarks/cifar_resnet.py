"""ResNet-20, 32 and 56 for CIFAR-10 as a model of ``repshift bench``: rows and columns leave them.

    repshift bench --model benchmarks/cifar_resnet.py:ResNet --model-args blocks=3 --checkpoint W \\
        --images DIR --labels --plan 0:2,1:1 0:4,1:2 0:8,1:4 --methods METHODS...

``blocks`` in each stage: 3, 5 or 9. 0:4,1:2 has the paper's shares, 1/7 and 1/6 of the rows and as
many columns, after the first and the second stage. Nothing is trained; ``scripts/
finetune_resnet.py`` is the paper's recipe. W are the weights of pytorch_resnet_cifar10
(github.com/akamaster, ``pretrained_models/*.th``), DIR test images of CIFAR-10, a folder a class:

    from torchvision.datasets import CIFAR10
    test = CIFAR10("data", train=False, download=True)
    for number, (image, label) in enumerate(test):
        (folder := Path("DIR") / test.classes[label]).mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:05}.png")
"""

from torch import nn
from torch.nn import functional as F

from repshift import ResNetSpec, Stage, register_adapter


class BasicBlock(nn.Module):
    """Two convolutions; a shortcut that takes every second position and adds empty channels."""

    def __init__(self, entry, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(entry, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - entry

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(x, (0, 0, 0, 0, self.added // 2, self.added // 2)))


class ResNet(nn.Module):
    """[B, 3, 32, 32] -> [B, 10], with the names of pytorch_resnet_cifar10."""

    num_classes = 10
    patch_size = 2  # of smaller images, the rival: an even number of pixels
    pretrained_cfg = {"input_size": (3, 32, 32), "crop_pct": 1.0}  # noqa: RUF012  (as timm's)

    def __init__(self, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, blocks)
        self.layer2 = self._layer(16, 32, 2, blocks)
        self.layer3 = self._layer(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _layer(entry, width, stride, blocks):
        others = [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(entry, width, stride), *others)

    def set_input_size(self, img_size):
        """Convolutions and their mean take any."""

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def spec(model):
    layers = (model.layer1, model.layer2, model.layer3)
    return ResNetSpec([Stage(layer[0], layer[-1], layer[-1].bn2) for layer in layers])


register_adapter(__name__, spec)
