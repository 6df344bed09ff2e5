#!/usr/bin/env python3
"""Compares how this crate inflates and compresses messages with zlib.

    fuzz/differential.py [MINUTES] [SEED]

Compressed messages of zlib, changed ones, and random ones must inflate to the same data, or fail at
the same message. What this crate compresses must inflate in zlib with exactly the window that was
agreed on. Prints each difference, and exits with 1 if there was one.
"""

import random
import subprocess
import sys
import time
import zlib

TAIL = b"\x00\x00\xff\xff"
PEER = "cargo test --quiet --features deflate --lib differential -- --ignored --nocapture"
WORDS = [b'{"motor":', b'"speed":', b"0.25", b"-1e3", b", ", b"\x00\x00", b"robot", b"\xff"]
STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE]
STRATEGIES.append(zlib.Z_FIXED)


def message(rng, history):
    """Returns data that resembles itself and the history, near and far."""
    data = bytearray()
    for _ in range(rng.randrange(1, 12)):
        kind = rng.randrange(5)
        if kind == 0:
            data += rng.randbytes(rng.choice([1, 30, 300, 3000]))
        elif kind == 1:
            data += bytes([rng.randrange(256)]) * rng.choice([1, 3, 258, 259, 5000, 40000])
        elif kind == 2:
            data += b"".join(rng.choices(WORDS, k=rng.randrange(1, 200)))
        else:
            known = history + data
            at = max(0, len(known) - (1 << rng.randrange(6, 16)) - rng.randrange(-300, 300))
            data += known[at : at + rng.randrange(1, 600)]
    history += data
    return bytes(data)


def compressed(rng, messages, takeover, bits):
    """Returns the payloads of messages as zlib compresses them."""
    settings = (rng.randrange(10), zlib.DEFLATED, -bits, rng.randrange(1, 10))
    settings += (rng.choice(STRATEGIES),)
    payloads = []
    compressor = zlib.compressobj(*settings)
    for data in messages:
        if not takeover:
            compressor = zlib.compressobj(*settings)
        payload = b""
        for _ in range(rng.choice([0, 0, 0, 1, 3])):
            cut = rng.randrange(len(data) + 1)
            payload += compressor.compress(data[:cut])
            payload += compressor.flush(rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]))
            data = data[cut:]
        payload += compressor.compress(data)
        if rng.randrange(16) == 0:
            payload += compressor.flush(zlib.Z_FINISH) + rng.choice([b"", b"\x00"])
            compressor = zlib.compressobj(*settings)
        else:
            # zlib may have nothing left to flush.
            payload += compressor.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(TAIL)
        payloads.append(payload)
    return payloads


def changed(rng, payload):
    payload = bytearray(payload)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(payload) + 1)
        kind = rng.randrange(5)
        if kind <= 1 and at < len(payload):
            payload[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            payload[at:at] = rng.randbytes(rng.randrange(1, 4))
        elif kind == 3:
            del payload[at : at + rng.randrange(1, 4)]
        else:
            del payload[at:]
    return bytes(payload)


def inflated(payloads, takeover, bits):
    """Returns what payloads inflate to, up to the first that cannot be inflated."""
    inflater = None
    messages = []
    for payload in payloads:
        if inflater is None or not takeover:
            inflater = zlib.decompressobj(-bits)
        data = b""
        try:
            has_ended = False
            for part in [payload, TAIL]:
                # After the end of a stream, there is no block that the tail would end.
                if part is TAIL and has_ended:
                    break
                while part:
                    data += inflater.decompress(part)
                    has_ended = inflater.eof
                    part = inflater.unused_data
                    if has_ended:
                        inflater = zlib.decompressobj(-bits)
                    else:
                        break
        except zlib.error:
            break
        messages.append(data)
    return messages


class Peer:
    """This crate."""

    def __init__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(PEER.split(), **pipes)

    def ask(self, task, *words):
        words = [w.hex() or "-" if isinstance(w, bytes) else str(int(w)) for w in words]
        self.process.stdin.write(" ".join([task, *words]) + "\n")
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            # The first answer is in a line with the name of the test.
            _, found, answer = line.partition("=")
            if found:
                return [bytes.fromhex(word) if word != "-" else b"" for word in answer.split()]
        sys.exit(f"the other program has ended with {self.process.wait()}: {task} {words}")

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()
        if self.process.wait() != 0:
            sys.exit("the other program has failed")


def main():
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    rng, peer = random.Random(seed), Peer()
    counts = {"inflated": 0, "rejected": 0, "beyond the window": 0, "compressed": 0}
    differences = 0
    peer.ask("inflate", True, 15, b"\x00")
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        takeover, bits, history = rng.random() < 0.7, rng.randrange(9, 16), bytearray()
        messages = [message(rng, history) for _ in range(rng.randrange(1, 5))]
        if rng.randrange(3) == 0:
            # This crate never compresses an empty message.
            messages = [data for data in messages if data]
            level = rng.randrange(1, 10)
            payloads = peer.ask("deflate", takeover, bits, level, *messages)
            counts["compressed"] += 1
            # zlib finds a distance beyond the window only if the data is not in a buffer.
            if inflated_in_small_steps(payloads, takeover, bits) != messages:
                differences += 1
                print("compressed:", takeover, bits, level, [m.hex() for m in messages])
            continue
        # The sender may have another window than agreed on.
        sender = bits if rng.randrange(4) else rng.randrange(9, 16)
        payloads = compressed(rng, messages, takeover, sender)
        kind = rng.randrange(8)
        if kind == 0:
            at = rng.randrange(len(payloads))
            payloads[at] = rng.randbytes(rng.randrange(40))
        elif kind < 6:
            at = rng.randrange(len(payloads))
            payloads[at] = changed(rng, payloads[at])
        ours = peer.ask("inflate", takeover, bits, *payloads)
        theirs = inflated(payloads, takeover, bits)
        if ours == theirs:
            counts["inflated" if len(ours) == len(payloads) else "rejected"] += 1
            continue
        # Whether a distance beyond the window is found depends on the sizes of buffers.
        longest = inflated(payloads, takeover, 15)
        if bits < 15 and is_prefix(ours, longest) and is_prefix(theirs, longest):
            counts["beyond the window"] += 1
            continue
        differences += 1
        print("inflated:", takeover, bits, [p.hex() for p in payloads])
    peer.end()
    print(f"{counts}, {differences} differences")
    sys.exit(1 if differences else 0)


def is_prefix(part, whole):
    return whole[: len(part)] == part


def inflated_in_small_steps(payloads, takeover, bits):
    """Returns what payloads inflate to, with nothing but the window to refer to."""
    inflater = None
    messages = []
    for payload in payloads:
        if inflater is None or not takeover:
            inflater = zlib.decompressobj(-bits)
        data = b""
        payload += TAIL
        for at in range(0, len(payload), 64):
            part = payload[at : at + 64]
            while part:
                data += inflater.decompress(part, 1)
                part = inflater.unconsumed_tail
        while more := inflater.decompress(b"", 1):
            data += more
        messages.append(data)
    return messages


if __name__ == "__main__":
    main()
