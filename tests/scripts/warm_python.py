"""``python`` for tests of shell scripts that start many: every call forks from a process with the imports done.

warm_python.py serve SOCKET            loads the libraries, then waits for calls
warm_python.py run SOCKET [ARGUMENT]...  what "python [ARGUMENT]..." would do, for -m MODULE and for script files
"""

import json
import os
import socket
import sys
import threading


def serve(address: str) -> None:
    import llava.eval.driver
    import llava.eval.validation_loss  # noqa: F401

    listener = socket.socket(socket.AF_UNIX)
    partial = address + ".new"
    listener.bind(partial)
    listener.listen()
    os.rename(partial, address)  # there is a socket only when calls are answered
    while True:
        call, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            if os.fork() == 0:  # a grandchild, so that nobody has to wait for it
                answer(call)
            os._exit(0)
        call.close()
        os.wait()


def answer(call: socket.socket) -> None:
    message, descriptors, _, _ = socket.recv_fds(call, 1 << 20, 3)
    request = json.loads(message)
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    threading.Thread(target=end_with, args=(call,), daemon=True).start()
    status = 1
    try:
        run(request["arguments"])
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    call.sendall(bytes([status]))
    os._exit(0)


def end_with(call: socket.socket) -> None:
    """A caller that was killed takes its process along."""
    call.recv(1)
    os._exit(1)


def run(arguments: list[str]) -> None:
    import runpy

    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


def call(address: str, arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        status = server.recv(1)
    return status[0] if status else 1


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(call(sys.argv[2], sys.argv[3:]))
