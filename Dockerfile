# CPU:   docker build -t picie .
#        docker run --rm -v "$PWD:/work" picie demo --out demo
# CUDA:  docker build -t picie:cuda --build-arg TORCH_BACKEND=cu128 .
#        docker run --rm --gpus all --ipc host -v "$PWD:/work" picie:cuda demo --out demo
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
COPY . /source
RUN uv build --wheel --out-dir /dist /source

FROM python:3.12-slim
ARG TORCH_BACKEND=cpu
RUN --mount=from=build,source=/dist,target=/dist \
    pip install --no-cache-dir uv && \
    uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" "picie[app,export,heic] @ $(ls /dist/*.whl)" && \
    pip uninstall --yes uv
RUN useradd --create-home picie && mkdir /work && chown picie /work
USER picie
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["picie"]
CMD ["--help"]
