"""The backbone as a model of transformers: `from load import load; model = load(".")`. Needs torch and transformers.

`AutoModel.from_pretrained(".")` and `AutoImageProcessor.from_pretrained(".")` do too; `pooler_output` is the embedding.
"""

from transformers import AutoModel


def load(folder):
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    wrong = {kind: names for kind, names in report.items() if kind.endswith("keys") and names}
    if wrong:
        raise ValueError("the file and the model do not fit: %s" % wrong)
    return model.eval()


def features(model, images):
    told = model(pixel_values=images, output_hidden_states=True)
    maps = {"map": told.last_hidden_state}
    if model.config.model_type == "vit":  # tokens, the first is the class token
        maps = {"map": told.last_hidden_state, "raw_map": told.hidden_states[-1]}
        side = model.config.image_size // model.config.patch_size
        maps = {name: tokens[:, 1:].mT.unflatten(2, (side, side)) for name, tokens in maps.items()}
    return {"embedding": told.pooler_output.flatten(1), **maps}
