"""Zero-shot classification by dual encoders: the command, and evaluations of encoders.

mmalign zero-shot photo.jpg --labels cat,dog,fox
mmalign train --objective contrastive --set evaluation.names='["retrieval"]'
"""

from mmalign import CommandSpec, EvaluationSpec, hookimpl

_DUAL_ENCODER = ("encode_image", "encode_text", "contrastive_head")


@hookimpl
def register_commands() -> list[CommandSpec]:
    return [
        CommandSpec(
            name="zero-shot",
            summary="Name what is in pictures, from labels that you write.",
            target="mmalign_zero_shot.command:command",
            group="Use",
        )
    ]


@hookimpl
def register_evaluations() -> list[EvaluationSpec]:
    return [
        EvaluationSpec(
            name="zero-shot",
            summary="Name the class of labelled images from texts alone: top-1 and top-5",
            target="mmalign_zero_shot.evaluation:ZeroShot",
            needs=_DUAL_ENCODER,
            kind="image-label",
            primary="top1",
        ),
        EvaluationSpec(
            name="retrieval",
            summary="Find an image's own caption among all captions and the other way round: recall at 1, 5, 10",
            target="mmalign_zero_shot.retrieval:Retrieval",
            needs=_DUAL_ENCODER,
            kind="image-text",
            primary="mean_r1",
        ),
        EvaluationSpec(
            name="text-retrieval",
            summary="Find a query's own document among all documents and the other way round: recall at 1, 5, 10",
            target="mmalign_zero_shot.retrieval:TextRetrieval",
            needs=("encode_text",),
            kind="text-pair",
            primary="query_to_document_r10",
            in_training="own-data",
        ),
    ]
