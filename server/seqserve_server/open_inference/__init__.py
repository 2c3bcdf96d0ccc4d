"""The Open Inference Protocol as a second service: ``inference.GRPCInferenceService``.

Only the server imports what is in here, and only when it serves it. The protocol's package has no owner: every client
library of it brings its own ``inference.*`` messages, and a process can register one definition of them.
"""

SERVICE_NAME = "inference.GRPCInferenceService"
