"""What is told of a model: its tensors, in the protocol's form and in Triton's."""

from seqserve_server.open_inference import open_inference_pb2 as pb
from seqserve_server.open_inference.inference import OUTPUTS, STREAM, TEXT
from seqserve_server.open_inference.parameters import SAMPLING_PARAMETERS
from seqserve_server.open_inference.tensors import BOOL, BYTES, FP64, UINT32
from seqserve_server.served_model import ServedModel

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
EXTENSIONS = ("parameters", "model_configuration")
_ANY = -1
# Name, datatype, length. The switches that a request may also have say nothing new, so they are not advertised.
_INPUTS = ((TEXT, BYTES, _ANY), (STREAM, BOOL, 1), (SAMPLING_PARAMETERS, BYTES, 1))
_TYPES = {BYTES: pb.TYPE_STRING, BOOL: pb.TYPE_BOOL, UINT32: pb.TYPE_UINT32, FP64: pb.TYPE_FP64}


def write_metadata(model: ServedModel) -> pb.ModelMetadataResponse:
    """Its tensors, in the protocol's form."""
    tensor = pb.ModelMetadataResponse.TensorMetadata
    return pb.ModelMetadataResponse(
        name=model.description.name, versions=[model.version], platform=PLATFORM,
        inputs=[tensor(name=name, datatype=datatype, shape=[length]) for name, datatype, length in _INPUTS],
        outputs=[tensor(name=name, datatype=datatype, shape=[_ANY]) for name, datatype in OUTPUTS.items()],
    )


def write_config(model: ServedModel) -> pb.ModelConfig:
    """Its tensors, in Triton's form."""
    return pb.ModelConfig(
        name=model.description.name, platform=PLATFORM, backend=BACKEND,
        input=[
            pb.ModelInput(name=name, data_type=_TYPES[datatype], dims=[length], optional=name != TEXT)
            for name, datatype, length in _INPUTS
        ],
        output=[
            pb.ModelOutput(name=name, data_type=_TYPES[datatype], dims=[_ANY]) for name, datatype in OUTPUTS.items()
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
    )
