"""Everything that is used of vLLM, by its name: no other file imports it, so a new vLLM is met here first."""

from vllm import AsyncEngineArgs as AsyncEngineArgs
from vllm import EngineArgs as EngineArgs
from vllm import LLMEngine as LLMEngine
from vllm import SamplingParams as SamplingParams
from vllm.config.weight_transfer import WeightTransferConfig as WeightTransferConfig
from vllm.distributed.weight_transfer import WeightTransferEngineFactory as WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine as WeightTransferEngine
from vllm.distributed.weight_transfer.base import WeightTransferInitInfo as WeightTransferInitInfo
from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo as WeightTransferUpdateInfo
from vllm.lora.punica_wrapper import punica_cpu as punica_cpu
from vllm.lora.request import LoRARequest as LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead as ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload as finalize_layerwise_reload
from vllm.model_executor.model_loader.reload import initialize_layerwise_reload as initialize_layerwise_reload
from vllm.sampling_params import RequestOutputKind as RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM as AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as EngineDeadError
