"""The vhost-user messages as one table: encoder, decoder, documentation and tests all read it.

Source of the facts: the vhost-user specification (QEMU, docs/interop/vhost-user.rst). Numbers are in native byte order.
`ipc.vhost_user_layout` has the payloads, `ipc.connection` carries messages over a socket.
"""

from __future__ import annotations

from ipc.vhost_user_layout import (
    CONFIG,
    DEVICE_STATE,
    EMPTY,
    INFLIGHT,
    IOTLB,
    LOG,
    MEMORY_REGION,
    MEMORY_TABLE,
    OPAQUE,
    SHMEM_CONFIG,
    SHMEM_MAP,
    U64,
    UNSPECIFIED,
    UUID,
    VRING_ADDRESS,
    VRING_AREA,
    VRING_STATE,
    Layout,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Virtio feature bits that vhost-user uses for itself; a driver never sees them.
F_LOG_ALL = 26
F_PROTOCOL_FEATURES = 30
VHOST_FEATURES = 1 << F_LOG_ALL | 1 << F_PROTOCOL_FEATURES

PROTOCOL_FEATURE_NAMES = (
    "MQ",
    "LOG_SHMFD",
    "RARP",
    "REPLY_ACK",
    "MTU",
    "BACKEND_REQ",
    "CROSS_ENDIAN",
    "CRYPTO_SESSION",
    "PAGEFAULT",
    "CONFIG",
    "BACKEND_SEND_FD",
    "HOST_NOTIFIER",
    "INFLIGHT_SHMFD",
    "RESET_DEVICE",
    "INBAND_NOTIFICATIONS",
    "CONFIGURE_MEM_SLOTS",
    "STATUS",
    "XEN_MMAP",
    "SHARED_OBJECT",
    "DEVICE_STATE",
    "GET_VRING_BASE_INFLIGHT",
    "GPA_ADDRESSES",
    "SHMEM",
)
(
    MQ,
    LOG_SHMFD,
    RARP,
    REPLY_ACK,
    MTU,
    BACKEND_REQ,
    CROSS_ENDIAN,
    CRYPTO_SESSION,
    PAGEFAULT,
    CONFIG_SPACE,
    BACKEND_SEND_FD,
    HOST_NOTIFIER,
    INFLIGHT_SHMFD,
    RESET,
    INBAND_NOTIFICATIONS,
    CONFIGURE_MEM_SLOTS,
    STATUS,
    XEN_MMAP,
    SHARED_OBJECT,
    DEVICE_STATE_FD,
    GET_VRING_BASE_INFLIGHT,
    GPA_ADDRESSES,
    SHMEM,
) = range(len(PROTOCOL_FEATURE_NAMES))

VRING_INDEX_MASK = 0xFF  # of the u64 in SET_VRING_KICK, _CALL, _ERR
VRING_NO_FD = 1 << 8
VRING_F_LOG = 1  # flag of SET_VRING_ADDR
CONFIG_WRITABLE, CONFIG_MIGRATION = 0, 1  # flags of SET_CONFIG
MAX_CONFIG = 256  # bytes of configuration space that any peer carries
MAX_TABLE_REGIONS = 8
DIRTY_PAGE = 4096  # bytes per bit of the dirty log

# How a request names its ring (`Message.index`).
NO_INDEX, INDEX_FIELD, INDEX_LOW_BYTE = "", "u32", "low byte"


class Message:
    """One request: what it carries, what answers it, and when it is legal.

    `fds` and `reply_fds` are (minimum, maximum) descriptors. `gate` is the protocol feature without which the request
    is illegal. `reply` None: no answer of its own, only an acknowledgement (u64) when REPLY_ACK and NEED_REPLY ask
    for one. `reply_gate`: the answer comes only with that protocol feature.
    """

    __slots__ = ("fds", "gate", "id", "index", "name", "payload", "reply", "reply_fds", "reply_gate")

    def __init__(
        self,
        request: int,
        name: str,
        payload: Layout = EMPTY,
        *,
        fds: tuple[int, int] = (0, 0),
        reply: Layout | None = None,
        reply_fds: tuple[int, int] = (0, 0),
        gate: int | None = None,
        reply_gate: int | None = None,
        index: str = NO_INDEX,
    ) -> None:
        self.id = request
        self.name = name
        self.payload = payload
        self.fds = fds
        self.reply = reply
        self.reply_fds = reply_fds
        self.gate = gate
        self.reply_gate = reply_gate
        self.index = index

    def __repr__(self) -> str:
        return self.name

    def allowed(self, protocol_features: int) -> bool:
        """Whether the negotiated protocol features make the request legal."""
        return self.gate is None or bool(protocol_features >> self.gate & 1)

    def replies(self, protocol_features: int) -> bool:
        """Whether the request has an answer of its own (not a mere acknowledgement)."""
        if self.reply is None:
            return False
        return self.reply_gate is None or bool(protocol_features >> self.reply_gate & 1)


GET_FEATURES = Message(1, "GET_FEATURES", reply=U64)
SET_FEATURES = Message(2, "SET_FEATURES", U64)
SET_OWNER = Message(3, "SET_OWNER")
RESET_OWNER = Message(4, "RESET_OWNER")
SET_MEM_TABLE = Message(5, "SET_MEM_TABLE", MEMORY_TABLE, fds=(0, MAX_TABLE_REGIONS))
SET_LOG_BASE = Message(6, "SET_LOG_BASE", LOG, fds=(0, 1), reply=UNSPECIFIED, reply_gate=LOG_SHMFD)
SET_LOG_FD = Message(7, "SET_LOG_FD", fds=(1, 1))
SET_VRING_NUM = Message(8, "SET_VRING_NUM", VRING_STATE, index=INDEX_FIELD)
SET_VRING_ADDR = Message(9, "SET_VRING_ADDR", VRING_ADDRESS, index=INDEX_FIELD)
SET_VRING_BASE = Message(10, "SET_VRING_BASE", VRING_STATE, index=INDEX_FIELD)
GET_VRING_BASE = Message(11, "GET_VRING_BASE", VRING_STATE, reply=VRING_STATE, index=INDEX_FIELD)
SET_VRING_KICK = Message(12, "SET_VRING_KICK", U64, fds=(0, 1), index=INDEX_LOW_BYTE)
SET_VRING_CALL = Message(13, "SET_VRING_CALL", U64, fds=(0, 1), index=INDEX_LOW_BYTE)
SET_VRING_ERR = Message(14, "SET_VRING_ERR", U64, fds=(0, 1), index=INDEX_LOW_BYTE)
GET_PROTOCOL_FEATURES = Message(15, "GET_PROTOCOL_FEATURES", reply=U64)
SET_PROTOCOL_FEATURES = Message(16, "SET_PROTOCOL_FEATURES", U64)
GET_QUEUE_NUM = Message(17, "GET_QUEUE_NUM", reply=U64, gate=MQ)
SET_VRING_ENABLE = Message(18, "SET_VRING_ENABLE", VRING_STATE, index=INDEX_FIELD)
SEND_RARP = Message(19, "SEND_RARP", U64, gate=RARP)
NET_SET_MTU = Message(20, "NET_SET_MTU", U64, gate=MTU)
SET_BACKEND_REQ_FD = Message(21, "SET_BACKEND_REQ_FD", fds=(1, 1), gate=BACKEND_REQ)
IOTLB_MSG = Message(22, "IOTLB_MSG", IOTLB, reply=U64)
SET_VRING_ENDIAN = Message(23, "SET_VRING_ENDIAN", VRING_STATE, gate=CROSS_ENDIAN, index=INDEX_FIELD)
GET_CONFIG = Message(24, "GET_CONFIG", CONFIG, reply=CONFIG, gate=CONFIG_SPACE)
SET_CONFIG = Message(25, "SET_CONFIG", CONFIG, gate=CONFIG_SPACE)
CREATE_CRYPTO_SESSION = Message(26, "CREATE_CRYPTO_SESSION", OPAQUE, reply=OPAQUE, gate=CRYPTO_SESSION)
CLOSE_CRYPTO_SESSION = Message(27, "CLOSE_CRYPTO_SESSION", U64, gate=CRYPTO_SESSION)
POSTCOPY_ADVISE = Message(28, "POSTCOPY_ADVISE", reply=EMPTY, reply_fds=(1, 1), gate=PAGEFAULT)
POSTCOPY_LISTEN = Message(29, "POSTCOPY_LISTEN", gate=PAGEFAULT)
POSTCOPY_END = Message(30, "POSTCOPY_END", reply=U64, gate=PAGEFAULT)
GET_INFLIGHT_FD = Message(31, "GET_INFLIGHT_FD", INFLIGHT, reply=INFLIGHT, reply_fds=(0, 1), gate=INFLIGHT_SHMFD)
SET_INFLIGHT_FD = Message(32, "SET_INFLIGHT_FD", INFLIGHT, fds=(1, 1), gate=INFLIGHT_SHMFD)
GPU_SET_SOCKET = Message(33, "GPU_SET_SOCKET", fds=(1, 1))
RESET_DEVICE = Message(34, "RESET_DEVICE", gate=RESET)
VRING_KICK = Message(35, "VRING_KICK", VRING_STATE, gate=INBAND_NOTIFICATIONS, index=INDEX_FIELD)
GET_MAX_MEM_SLOTS = Message(36, "GET_MAX_MEM_SLOTS", reply=U64, gate=CONFIGURE_MEM_SLOTS)
ADD_MEM_REG = Message(37, "ADD_MEM_REG", MEMORY_REGION, fds=(1, 1), gate=CONFIGURE_MEM_SLOTS)
REM_MEM_REG = Message(38, "REM_MEM_REG", MEMORY_REGION, fds=(0, 1), gate=CONFIGURE_MEM_SLOTS)
SET_STATUS = Message(39, "SET_STATUS", U64, gate=STATUS)
GET_STATUS = Message(40, "GET_STATUS", reply=U64, gate=STATUS)
GET_SHARED_OBJECT = Message(41, "GET_SHARED_OBJECT", UUID, reply=OPAQUE, reply_fds=(0, 1), gate=SHARED_OBJECT)
SET_DEVICE_STATE_FD = Message(
    42, "SET_DEVICE_STATE_FD", DEVICE_STATE, fds=(1, 1), reply=U64, reply_fds=(0, 1), gate=DEVICE_STATE_FD
)
CHECK_DEVICE_STATE = Message(43, "CHECK_DEVICE_STATE", reply=U64, gate=DEVICE_STATE_FD)
GET_SHMEM_CONFIG = Message(44, "GET_SHMEM_CONFIG", reply=SHMEM_CONFIG, gate=SHMEM)

BACKEND_IOTLB_MSG = Message(1, "BACKEND_IOTLB_MSG", IOTLB)
BACKEND_CONFIG_CHANGE = Message(2, "BACKEND_CONFIG_CHANGE_MSG", gate=CONFIG_SPACE)
BACKEND_VRING_HOST_NOTIFIER = Message(
    3, "BACKEND_VRING_HOST_NOTIFIER_MSG", VRING_AREA, fds=(0, 1), gate=HOST_NOTIFIER, index=INDEX_LOW_BYTE
)
BACKEND_VRING_CALL = Message(4, "BACKEND_VRING_CALL", VRING_STATE, gate=INBAND_NOTIFICATIONS, index=INDEX_FIELD)
BACKEND_VRING_ERR = Message(5, "BACKEND_VRING_ERR", VRING_STATE, gate=INBAND_NOTIFICATIONS, index=INDEX_FIELD)
BACKEND_SHARED_OBJECT_ADD = Message(6, "BACKEND_SHARED_OBJECT_ADD", UUID, gate=SHARED_OBJECT)
BACKEND_SHARED_OBJECT_REMOVE = Message(7, "BACKEND_SHARED_OBJECT_REMOVE", UUID, gate=SHARED_OBJECT)
BACKEND_SHARED_OBJECT_LOOKUP = Message(
    8, "BACKEND_SHARED_OBJECT_LOOKUP", UUID, reply=U64, reply_fds=(0, 1), gate=SHARED_OBJECT
)
BACKEND_SHMEM_MAP = Message(9, "BACKEND_SHMEM_MAP", SHMEM_MAP, fds=(1, 1), gate=SHMEM)
BACKEND_SHMEM_UNMAP = Message(10, "BACKEND_SHMEM_UNMAP", SHMEM_MAP, gate=SHMEM)


def _by_id(messages: Iterable[Message]) -> dict[int, Message]:
    return {message.id: message for message in messages}


_ALL = [value for value in list(globals().values()) if isinstance(value, Message)]
BACKEND_REQUESTS = _by_id(message for message in _ALL if message.name.startswith("BACKEND_"))
"""Requests that the back-end sends, over the channel of SET_BACKEND_REQ_FD, by id."""
FRONTEND_REQUESTS = _by_id(message for message in _ALL if not message.name.startswith("BACKEND_"))
"""Requests that the front-end sends, by id."""


def bits(*numbers: int) -> int:
    """Return the mask with these bits set."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    return mask
