"""The texts of the config files beside an exported checkpoint of OpenMMLab."""

from collections.abc import Sequence

from datamodules.datasets.oktoberfest import CLASSES
from pas_train.exporting.openmmlab import FILE, TITLES, Library, Residual, Shape, Transformer
from pas_train.exporting.source import Source

CONFIG = "backbone.py"
SEGMENTATION = "upernet_foodseg103.py"
DETECTION = "cascade_rcnn_oktoberfest.py"
LEVELS = 4  # maps that UPerNet takes

_PRETRAINED = "dict(type='Pretrained', {prefix}checkpoint='{{{{ fileDirname }}}}/" + FILE + "')"

_TRANSFORMER = """\
backbone = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims={width}, num_layers={depth}, num_heads={heads}, feedforward_channels={hidden}),
    img_size={side},
    patch_size={patch},
    qkv_bias={qkv_bias},
    norm_cfg=dict(type='LN', eps={eps}),
    final_norm=True,
    out_type='cls_token',
    init_cfg={pretrained})
"""

# patch_bias and final_norm are false by default: weights that are there would be left out without a word.
_SEGMENTING_TRANSFORMER = """\
backbone = dict(
    type='mmseg.VisionTransformer',
    img_size=({side}, {side}),
    patch_size={patch},
    patch_bias=True,
    embed_dims={width},
    num_layers={depth},
    num_heads={heads},
    mlp_ratio={ratio},
    out_indices={levels},
    norm_cfg=dict(type='LN', eps={eps}),
    final_norm=True,
    init_cfg={pretrained})
"""

_RESIDUAL = """\
backbone = dict(
    type='{library}.{type}',
    depth={depth},
{more}    out_indices={stages},
    style='pytorch',
    init_cfg={pretrained})
"""

_FOODSEG103 = """
# FoodSeg103.zip, unpacked. Classes are the places in category_id.txt; the background, the first, counts as one.
data_root = 'data/FoodSeg103'
metainfo = dict(classes=[str(number) for number in range(104)])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# In all, 16 images a step: {gpus} GPUs with {batch}. On one GPU: --cfg-options train_dataloader.batch_size=16
train_dataloader = dict(
    batch_size={batch},
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='Images/img_dir/train', seg_map_path='Images/ann_dir/train'),
        metainfo=metainfo,
        pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='Images/img_dir/test', seg_map_path='Images/ann_dir/test'),
        metainfo=metainfo,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
"""

_UPERNET = """\
# The paper's segmentation: UPerNet on FoodSeg103, 80,000 steps, the defaults of MMSegmentation 1.2.1 (read by 1.2.2).
#     mim train mmsegmentation {file} --launcher pytorch --gpus {gpus}
_base_ = ['mmseg::{base}', './{config}']

_base_.backbone.update({changed})
data_preprocessor = dict(**_base_.preprocessor)
model = dict(
    pretrained=None,
    data_preprocessor=data_preprocessor,
    backbone=dict(_delete_=True, **_base_.backbone),
{neck}    decode_head=dict(in_channels={channels}, num_classes=104),
    auxiliary_head=dict(in_channels={auxiliary}, num_classes=104))
"""

_CASCADE = """\
# The paper's detection: Cascade R-CNN on the Oktoberfest Food Dataset, 12 epochs, the defaults of MMDetection 3.2.0
# (read by 3.3.0). Its boxes as COCO JSON are written by
#     python -m datamodules.coco 'oktoberfest:data/oktoberfest?split=train' data/oktoberfest/train.json
#     python -m datamodules.coco 'oktoberfest:data/oktoberfest?split=test' data/oktoberfest/test.json
# The learning rate is for 16 images a step: 8 GPUs with 2. With fewer: --auto-scale-lr
#     mim train mmdet {file} --launcher pytorch --gpus 8
_base_ = ['mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', './{config}']

classes = (
{classes}
)
model = dict(
    data_preprocessor=dict(**_base_.preprocessor),
    # As MMDetection has it, the stem and the first stage stay as they are, and so do the statistics of all norms.
    backbone=dict(_delete_=True, frozen_stages=1, norm_eval=True, **_base_.backbone),
    neck=dict(in_channels={channels}),
    roi_head=dict(
        bbox_head=[dict(head, num_classes={count}) for head in _base_.model.roi_head.bbox_head]))

data_root = 'data/oktoberfest/'
metainfo = dict(classes=classes)
train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='train.json', data_prefix=dict(img=''), metainfo=metainfo))
val_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='test.json', data_prefix=dict(img=''), metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'test.json')
test_evaluator = val_evaluator
"""


def backbone_text(source: Source, shape: Shape, library: Library) -> str:
    """backbone.py: what the library builds, and how images are normalised."""
    prefix = "prefix='backbone.', " if library == "mmpretrain" else ""
    pretrained = _PRETRAINED.format(prefix=prefix)
    if isinstance(shape, Residual):
        body = _RESIDUAL.format(
            library=library, type="ResNet" if shape.groups == 1 else "ResNeXt", depth=shape.depth,
            more=_residual_more(shape, library), pretrained=pretrained,
            stages=(3,) if library == "mmpretrain" else (0, 1, 2, 3),
        )  # fmt: skip
    elif library == "mmseg":
        body = _SEGMENTING_TRANSFORMER.format(
            **vars(shape), ratio=shape.hidden // shape.width, levels=levels(shape.depth), pretrained=pretrained
        )
    else:
        body = _TRANSFORMER.format(**vars(shape), pretrained=pretrained)
    swapped = "to_rgb" if library == "mmpretrain" else "bgr_to_rgb"
    return (
        f"# {source.architecture} of {source.image_size} px for {TITLES[library]}. In a config of yours, _base_ lists\n"
        "# this file, and the model takes backbone=dict(_delete_=True, **_base_.backbone) and\n"
        "# data_preprocessor=dict(**_base_.preprocessor).\n"
        f"{body}\n"
        "# Files are read as BGR; the backbone was trained on RGB.\n"
        f"preprocessor = dict(mean={_bytes(source.mean)}, std={_bytes(source.std)}, {swapped}=True)\n"
    )


def segmentation_text(shape: Shape) -> str:
    """upernet_foodseg103.py: the paper's segmentation with this backbone."""
    if isinstance(shape, Transformer):
        base, batch = "vit/vit_vit-b16_mln_upernet_8xb2-80k_ade20k-512x512.py", 2
        channels, auxiliary = [shape.width] * LEVELS, shape.width
        changed = "img_size=(512, 512)"
        neck = f"    neck=dict(in_channels={channels}, out_channels={shape.width}),\n"
    else:
        base, batch = "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", 4
        channels, auxiliary = shape.channels, shape.channels[2]
        changed = "norm_cfg=dict(type='SyncBN', requires_grad=True)"
        neck = ""
    told = {"gpus": 16 // batch, "batch": batch}
    model = _UPERNET.format(
        **told, file=SEGMENTATION, base=base, config=CONFIG, changed=changed, neck=neck, channels=channels,
        auxiliary=auxiliary,
    )  # fmt: skip
    return model + _FOODSEG103.format(**told)


def detection_text(shape: Residual) -> str:
    """cascade_rcnn_oktoberfest.py: the paper's detection with this backbone."""
    rows = [CLASSES[start : start + 5] for start in range(0, len(CLASSES), 5)]
    classes = "\n".join("    " + " ".join(f"{name!r}," for name in row) for row in rows)
    return _CASCADE.format(file=DETECTION, config=CONFIG, classes=classes, channels=shape.channels, count=len(CLASSES))


def levels(depth: int) -> tuple[int, ...]:
    """The blocks, evenly spaced, whose tokens UPerNet takes."""
    return tuple(depth * (level + 1) // LEVELS - 1 for level in range(LEVELS))


def _residual_more(shape: Residual, library: Library) -> str:
    """Arguments that differ from the library's defaults, a line each."""
    given: dict[str, str] = {}
    if shape.groups > 1:
        given["groups"] = str(shape.groups)
        given["width_per_group" if library == "mmpretrain" else "base_width"] = str(shape.group_width)
    if (shape.stem, shape.base) != (64, 64):
        given["stem_channels"], given["base_channels"] = str(shape.stem), str(shape.base)
    return "".join(f"    {name}={value},\n" for name, value in given.items())


def _bytes(values: Sequence[float]) -> str:
    """Of colours from 0 to 255."""
    return str([round(255 * value, 4) for value in values])
