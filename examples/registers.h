// What a snippet's registers are after a call is left to chance: every function may overwrite all
// but SP and BP. An example that calls sets them at its end, AX being its result, so that two runs
// can be compared to the last bit.

#define CLEAR_ALL_BUT_AX \
	XORL	BX, BX \
	XORL	CX, CX \
	XORL	DX, DX \
	XORL	SI, SI \
	XORL	DI, DI \
	XORL	R8, R8 \
	XORL	R9, R9 \
	XORL	R10, R10 \
	XORL	R11, R11 \
	XORL	R12, R12 \
	XORL	R13, R13 \
	XORL	R15, R15 \
	PXOR	X0, X0 \
	PXOR	X1, X1 \
	PXOR	X2, X2 \
	PXOR	X3, X3 \
	PXOR	X4, X4 \
	PXOR	X5, X5 \
	PXOR	X6, X6 \
	PXOR	X7, X7 \
	PXOR	X8, X8 \
	PXOR	X9, X9 \
	PXOR	X10, X10 \
	PXOR	X11, X11 \
	PXOR	X12, X12 \
	PXOR	X13, X13 \
	PXOR	X14, X14 \
	PXOR	X15, X15
