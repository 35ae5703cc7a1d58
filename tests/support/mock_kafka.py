"""librdkafka's mock cluster as a process of its own, so that it can be frozen and killed; orders come by stdin.

It speaks Kafka's own protocol over TCP and keeps what was produced, in memory: there is no Kafka in Debian or in a
wheel. The Python package does not offer its switches, so they are called in the library itself.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

PRODUCER = 0
BROKER_ID = 1


def library() -> Any:
    """The librdkafka that comes with the `confluent_kafka` wheel."""
    found = importlib.util.find_spec("confluent_kafka")
    assert found
    assert found.origin
    (path,) = (Path(found.origin).parent.parent / "confluent_kafka.libs").glob("librdkafka-*.so*")
    loaded = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(loaded, name).restype = ctypes.c_void_p
    loaded.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return loaded


def main() -> None:
    """Print the address, then obey until stdin ends."""
    kafka = library()
    said = ctypes.create_string_buffer(512)
    settings = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    # The handle itself is connected to nothing, and says so.
    kafka.rd_kafka_conf_set(settings, b"log_level", b"3", said, 512)
    handle = ctypes.c_void_p(kafka.rd_kafka_new(PRODUCER, settings, said, 512))
    cluster = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(handle, 1))
    print(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["down"]:
                kafka.rd_kafka_mock_broker_set_down(cluster, BROKER_ID)
            case ["up"]:
                kafka.rd_kafka_mock_broker_set_up(cluster, BROKER_ID)
            case ["address", host, port]:
                kafka.rd_kafka_mock_broker_set_host_port(cluster, BROKER_ID, host.encode(), int(port))
            case ["topic", name, partitions]:
                kafka.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1)
            case ["topic-error", name, code]:
                kafka.rd_kafka_mock_topic_set_error(cluster, name.encode(), int(code))
            case ["request-error", api_key, code, times]:
                errors = (ctypes.c_int * int(times))(*[int(code)] * int(times))
                kafka.rd_kafka_mock_push_request_errors_array(
                    cluster, ctypes.c_int16(int(api_key)), ctypes.c_size_t(int(times)), errors
                )
        print("done", flush=True)


if __name__ == "__main__":
    main()
