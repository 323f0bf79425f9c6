/* Detects objects in an image with TensorFlow's C API alone, as TensorFlow Serving would.
 *
 *   detect FOLDER IMAGE INPUT BOXES SCORES CLASSES NUM
 *
 * INPUT and so on are the names of the signature's tensors without ":0", OPERATION:INDEX for the
 * outputs. Prints a line "class score ymin xmin ymax xmax" for each detection.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

static void check(TF_Status* status) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%d: %s\n", TF_GetCode(status), TF_Message(status));
  exit(1);
}

static char* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(2);
  }
  fseek(file, 0, SEEK_END);
  *size = ftell(file);
  rewind(file);
  char* bytes = malloc(*size);
  if (fread(bytes, 1, *size, file) != *size) exit(2);
  fclose(file);
  return bytes;
}

static TF_Output find(TF_Graph* graph, char* name) {
  int index = 0;
  char* colon = strchr(name, ':');
  if (colon) {
    *colon = '\0';
    index = atoi(colon + 1);
  }
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (!output.oper) {
    fprintf(stderr, "no operation %s\n", name);
    exit(2);
  }
  return output;
}

static TF_Tensor* batch_of_one_string(const char* bytes, size_t size) {
  int64_t dims[] = {1};
  TF_Tensor* tensor = TF_AllocateTensor(TF_STRING, dims, 1, sizeof(TF_TString));
  TF_TString* string = TF_TensorData(tensor);
  TF_StringInit(string);
  TF_StringCopy(string, bytes, size);
  return tensor;
}

int main(int argc, char** argv) {
  if (argc != 8) return 2;
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);

  size_t size;
  char* bytes = read_file(argv[2], &size);
  TF_Output input = find(graph, argv[3]);
  TF_Tensor* image = batch_of_one_string(bytes, size);
  TF_Output outputs[4];
  for (int i = 0; i < 4; ++i) outputs[i] = find(graph, argv[4 + i]);
  TF_Tensor* results[4];
  TF_SessionRun(session, NULL, &input, &image, 1, outputs, results, 4, NULL, 0, NULL, status);
  check(status);

  const float* boxes = TF_TensorData(results[0]);
  const float* scores = TF_TensorData(results[1]);
  const int* classes = TF_TensorData(results[2]);
  int num = *(const int*)TF_TensorData(results[3]);
  for (int i = 0; i < num; ++i) {
    const float* box = boxes + 4 * i;
    printf("%d %.6f %.3f %.3f %.3f %.3f\n", classes[i], scores[i], box[0], box[1], box[2], box[3]);
  }
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  return 0;
}
