"""Device time of calls, by replays of a CUDA graph of them."""

import statistics

import torch


def graph_of(call):
    """A graph of `call`, warmed up on a side stream as capture wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def microseconds(call, calls, replays=60):
    """Median device time of one of the `calls` calls that `call` makes, and the spread of the middle half."""
    graph = graph_of(call)
    for _ in range(5):
        graph.replay()
    times = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    quarter = len(times) // 4
    ordered = sorted(times)
    return statistics.median(times), ordered[-quarter] - ordered[quarter]
